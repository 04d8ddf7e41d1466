"""The operations of the CPU: each a kernel of the team, and the layouts that they share."""
