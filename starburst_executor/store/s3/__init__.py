"""An object store in Amazon S3 or a compatible server: one store, two HTTP clients (transports)."""
