"""What `train_fnac.py` is made of: data, encoders, training module, evaluation and pictures."""
