"""Generated from ``proto/bitfusiond/plugin/dra/v1/api.proto`` by ``just proto``."""
