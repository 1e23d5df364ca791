"""The zoo through Core AI and Apple's own runtime, with our passes and by plain export."""
