"""S3 and what speaks its protocol, as an object store: two engines behind one store."""
