"""Images, labels and masks: every data set behind one form."""
