"""What a run is: its names, folder, lock, reader, sweeps and stopping. Needs no torch: scripts and page share it."""
