"""What detection and segmentation share: one task over OpenMMLab's parts, its data streams, starts and pictures."""
