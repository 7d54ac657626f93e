"""Everything that lives in this process: nodes, their tree, their figures, and the store that reads and collects them."""
