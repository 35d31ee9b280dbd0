"""Making a base from scratch: corpus -> vocabulary and batches, a small T5, its training, the folder it ends in."""
