"""Makes synthetic scenes: two objects in an image, and the sound of one of them."""
