"""metarun: few-shot meta-learning and continual learning from configuration files."""
