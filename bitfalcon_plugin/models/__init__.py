"""Networks: from the YAML graph through the modules to the weights."""
