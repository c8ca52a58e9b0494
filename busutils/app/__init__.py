"""Using a trained segmenter: on files, as a web page, without TensorFlow. Not a medical device."""
