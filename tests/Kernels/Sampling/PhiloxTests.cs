using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Sampling;

public sealed class PhiloxTests
{
    /// <summary>The known answers that Random123 publishes for philox4x32 with ten rounds.</summary>
    [Fact]
    public void Block_GivesTheKnownAnswers()
    {
        Assert.Equal((0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u), Philox.Block((0, 0, 0, 0), (0, 0)));
        Assert.Equal(
            (0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu),
            Philox.Block((uint.MaxValue, uint.MaxValue, uint.MaxValue, uint.MaxValue), (uint.MaxValue, uint.MaxValue)));
        Assert.Equal(
            (0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u),
            Philox.Block((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0)));
    }

    [Fact]
    public void Uniform_IsUniform_OverPositionsAndOverSeeds()
    {
        const int Draws = 100_000, Cells = 100;
        int[] byPosition = new int[Cells], bySeed = new int[Cells];
        for (int i = 0; i < Draws; i++)
        {
            byPosition[(int)(Philox.Uniform(42, i) * Cells)]++;
            bySeed[(int)(Philox.Uniform((ulong)i << 20, 7) * Cells)]++;
        }
        // 99 degrees of freedom: mean 99, standard deviation 14.
        foreach (int[] counts in new[] { byPosition, bySeed })
            Assert.InRange(counts.Sum(count => Math.Pow(count - (Draws / Cells), 2) / (Draws / Cells)), 50, 160);
    }

    [Fact]
    public void Uniform_UsesTheWholeSeed() =>
        Assert.Equal(4, new[] { 0UL, 1UL, 1UL << 32, 1UL << 63 }.Select(seed => Philox.Uniform(seed, 1)).Distinct().Count());
}
