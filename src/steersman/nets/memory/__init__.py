"""Networks that remember: memories with one interface, and how a network is put behind one."""
