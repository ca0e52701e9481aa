"""Training in several processes, and what makes it the run of one.

Each process reads its share of every step's samples; tables are spread (``embeddings/sharding``), the network is the
same everywhere.

::

    processes.py             world, gather, broadcast; failures that end all processes
    data_parallel.py         a step's loss, regularisation and predictions over processes
    launch.py                `recsys torchrun`: this host's processes, and how they end
    shared_folder.py         the run's folder, the same on all hosts
    sync_normalization.py    Dice and batch normalisation over all samples of a step
"""
