"""What families other than diffusion minimise: arrays in, arrays out."""
