"""What a session is, over bytes with conditions: its manifest, status objects, payloads, bell and beats."""
