"""The contracts between the processes: formats and names, no input or output."""
