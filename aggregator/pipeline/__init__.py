"""The only places that assemble: consumer, markers, windows and publisher make a process."""
