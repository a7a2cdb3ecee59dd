"""Generated from ``proto/bitfusiond/plugin/dra/registration/api.proto`` by ``just proto``."""
