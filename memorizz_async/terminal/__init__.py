"""What a terminal shows of results. The command line and the demo share it; it needs rich."""
