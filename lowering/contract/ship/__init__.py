"""The checklists before a model is shipped, looked at one by one."""
