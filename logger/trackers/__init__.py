"""Writers for tables and services. The folder can be deleted; one of the same name in logger/ comes first."""
