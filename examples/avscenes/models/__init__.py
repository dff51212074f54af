"""The image and the audio encoder, their weights from files, and object-guided localisation."""
