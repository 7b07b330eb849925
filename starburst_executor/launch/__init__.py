"""What starts workers: one file per engine, behind one small interface."""
