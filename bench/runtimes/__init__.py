"""The runtimes that load exported files on this machine: the contract, and a module for each library."""
