"""Trained models to ONNX graphs, with a certificate that both answer the same.

::

    onnx.py           a ranking model to a bundle
    graphs/           its user, encode and rank graphs, as modules and as files
    certificate.py    torch and ONNX Runtime compared on real samples
    measure.py        a bundle's metrics on any test split, to compare two bundles
    int8.py           matrix products in 8-bit integers
    quantized.py      quantised rows, and what they do to the answers
    rewrites/         graphs made faster, with the same answers
    retrieval/        models that rank all items
"""
