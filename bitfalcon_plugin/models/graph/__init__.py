"""The YAML graph: documents, rows, and the rules of the modules in them."""
