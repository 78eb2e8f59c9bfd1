"""What every qkdrelay service speaks and computes."""
