"""The names of the wider package that public scripts import, each a few lines over our own parts.

Facts of the names: spec/dropin.md and spec/dropin-helpers.md. No other room imports this one.
"""
