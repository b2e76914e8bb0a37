// The configuration of a self-hosted Renovate: an account of the registry that may only pull.
module.exports = {
  hostRules: [
    {
      hostType: "docker",
      matchHost: "registry.example.com",
      username: process.env.REGISTRY_USERNAME,
      password: process.env.REGISTRY_PASSWORD,
    },
  ],
};
