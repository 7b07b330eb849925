"""A session's objects in a store of bytes with conditional writes: manifest, status objects, payloads, bell and beats."""
