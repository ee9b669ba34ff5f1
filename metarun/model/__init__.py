"""Networks used functionally: weights come from outside, shared by all tasks or a set for each."""
