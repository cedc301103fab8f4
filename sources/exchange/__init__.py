"""Public trades of exchanges, with gaps in the trade ids detected and filled."""
