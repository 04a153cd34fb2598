"""What people see: the dashboard, curves, films, exported policies."""
