"""The tables of results: which rows there are, the recorded runs, and the page and pictures made of them."""
