"""The one definition of a feature: what it is, how it is keyed, packed and encoded. numpy only."""
