using Native.Bench.Serve;

namespace Native.Bench.Simulate;

/// <summary>One request of a load.</summary>
/// <param name="Arrival">Seconds after the load's beginning.</param>
/// <param name="Input">Tokens of its prompt.</param>
/// <param name="Output">Tokens of its answer.</param>
/// <param name="Tenant">Who sends it; empty where the load tells nobody apart.</param>
/// <param name="FirstBlock">Id of its first own block; every request's own ids are different.</param>
internal sealed record TrafficRequest(double Arrival, int Input, int Output, string Tenant, long FirstBlock)
{
    /// <summary>Tokens that an id of <see cref="BlockId"/> stands for: vLLM's default in its traces.</summary>
    public const int BlockTokens = 16;

    /// <summary>The request whose prompt begins alike; null for none.</summary>
    public TrafficRequest? Parent { get; init; }

    /// <summary>Blocks of the prompt that are the parent's.</summary>
    public int SharedBlocks { get; init; }

    /// <summary>Blocks of the prompt, the last of them perhaps partly filled.</summary>
    public int Blocks => (Input + BlockTokens - 1) / BlockTokens;

    /// <summary>What is in a block of the prompt: equal ids are equal tokens.</summary>
    public long BlockId(int block)
    {
        TrafficRequest owner = this;
        while (block < owner.SharedBlocks) owner = owner.Parent!;
        return owner.FirstBlock + block;
    }

    /// <summary>The prompt as token ids below <paramref name="vocabulary"/>.</summary>
    public int[] Ids(int vocabulary)
    {
        int[] ids = new int[Input];
        for (int i = 0; i < ids.Length; i++)
            ids[i] = BlockContent.Token(BlockId(i / BlockTokens), i % BlockTokens, vocabulary);
        return ids;
    }
}
