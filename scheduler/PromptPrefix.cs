namespace Native.Scheduling;

/// <summary>What the door found out of a prompt: whose it is, and what of it may be cached.</summary>
/// <param name="Tenant">Who sent it.</param>
/// <param name="Root">Who may share its blocks, see <see cref="PrefixCache.RootOf"/>.</param>
/// <param name="Chains">Hashes of the prompt's full blocks; none where nothing is cached.</param>
/// <param name="TokensAhead">Prompt tokens that are probably not in the cache.</param>
internal readonly record struct PromptPrefix(Tenant Tenant, UInt128 Root, ulong[] Chains, int TokensAhead)
{
    /// <summary>Looks a request's prompt up. Any thread.</summary>
    public static PromptPrefix Of(GenerationRequest request, Tenant tenant, PrefixCache? cache, int blockSize)
    {
        if (cache is null) return new PromptPrefix(tenant, UInt128.Zero, [], request.Ids.Length);
        // The name it came with: beyond those that can be told apart, tenants share a share and no blocks.
        UInt128 root = PrefixCache.RootOf(request.CacheSalt, request.Tenant);
        ulong[] chains = PrefixCache.ChainsOf(root, request.Ids.Span, blockSize);
        return new PromptPrefix(tenant, root, chains, request.Ids.Length - (cache.Guess(chains) * blockSize));
    }
}
