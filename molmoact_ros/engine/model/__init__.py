"""The MolmoAct network, its configuration, checkpoint format, image processor, depth VQ-VAE and quantisation."""
