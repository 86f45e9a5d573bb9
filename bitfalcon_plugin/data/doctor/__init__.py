"""The verb doctor: everything wrong or odd in a dataset."""
