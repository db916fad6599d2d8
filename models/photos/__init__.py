"""Photographs: training samples decoded afresh for every epoch, and augmented as training scripts for them do."""
