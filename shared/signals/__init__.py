"""What frozen models say of the data: measured once, cached, named columns."""
