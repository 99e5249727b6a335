"""Other libraries' training loops and quantized layers. Each module needs its library: pip install stillbit[integrations]."""
