namespace Native.Kernels.Sampling;

/// <summary>Philox-4x32-10, a counter-based generator: random bits as a pure function of counter and key (Salmon et al.
/// 2011, "Parallel Random Numbers: As Easy as 1, 2, 3").</summary>
/// <remarks>It has no state, so a draw depends on a sequence's seed and position alone, not on the rest of the
/// batch.</remarks>
public static class Philox
{
    private const uint Multiplier0 = 0xD2511F53, Multiplier1 = 0xCD9E8D57;
    private const uint Weyl0 = 0x9E3779B9, Weyl1 = 0xBB67AE85; // the golden ratio, and the square root of 3 less 1
    private const int Rounds = 10;

    /// <summary>128 random bits for a 128-bit counter and a 64-bit key.</summary>
    public static (uint X0, uint X1, uint X2, uint X3) Block(
        (uint X0, uint X1, uint X2, uint X3) counter, (uint K0, uint K1) key)
    {
        (uint x0, uint x1, uint x2, uint x3) = counter;
        (uint k0, uint k1) = key;
        for (int round = 0; round < Rounds; round++)
        {
            ulong product0 = (ulong)Multiplier0 * x0, product1 = (ulong)Multiplier1 * x2;
            (x0, x1, x2, x3) = ((uint)(product1 >> 32) ^ x1 ^ k0, (uint)product1, (uint)(product0 >> 32) ^ x3 ^ k1,
                (uint)product0);
            k0 += Weyl0;
            k1 += Weyl1;
        }
        return (x0, x1, x2, x3);
    }

    /// <summary>A number in [0, 1) with 53 random bits: the seed is the key, the position the counter.</summary>
    public static double Uniform(ulong seed, int position)
    {
        (uint x0, uint x1, _, _) = Block(((uint)position, 0, 0, 0), ((uint)seed, (uint)(seed >> 32)));
        return ((((ulong)x0 << 32) | x1) >> 11) * (1.0 / (1UL << 53));
    }
}
