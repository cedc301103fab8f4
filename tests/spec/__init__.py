"""The readable window engine: the specification that the compiled one is compared with."""
