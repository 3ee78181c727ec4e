"""Rewriting: rules by subject, the rule driver, the pass manager and the whole-graph passes."""
