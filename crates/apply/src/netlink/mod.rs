//! Links, addresses, routes, neighbours, sysctls.
