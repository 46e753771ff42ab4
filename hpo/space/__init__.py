"""What can be searched: domains, conditions, constraints; sampling, enumeration and encoding."""
