"""Lesion segmentation in breast-ultrasound images: data sets, K-Means, U-Net, honest scores.

Importing the package is cheap and free of TensorFlow; Keras is loaded by the first network.
"""

__version__ = "0.1.0"
