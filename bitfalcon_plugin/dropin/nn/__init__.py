"""Networks, under the module names of the wider package."""
