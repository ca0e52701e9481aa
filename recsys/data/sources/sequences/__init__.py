"""Item sequences of S3-Rec: their files, split leave-one-out."""
