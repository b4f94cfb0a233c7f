using System.Globalization;
using System.Numerics;
using System.Text.Json;
using Native.Scheduling.Slo;

namespace Native.Tests.Scheduling;

public sealed class BurnRatesTests
{
    private const uint Steady = 10_000; // requests in ten seconds

    [Theory]
    [InlineData("1.0"), InlineData("0.5"), InlineData("0.1"), InlineData("0.02"), InlineData("0.0144")]
    [InlineData("0.015"), InlineData("0.01"), InlineData("0.006"), InlineData("0.0061"), InlineData("0.003")]
    [InlineData("0.0031"), InlineData("0.0011")]
    public void EachPairFires_WhenTheOracleSays(string share)
    {
        string path = TestData.Path("monitoring/burnrate.json");
        Dictionary<string, long> expected =
            JsonSerializer.Deserialize<Dictionary<string, Dictionary<string, long>>>(File.ReadAllText(path))![share];
        SloObjective objective = Objectives.Availability();
        SloClock clock = new();
        BudgetLedger ledger = new(new SloSpec([objective]), clock);
        for (int i = 0; i < 30 * 8640; i++) ledger.TenSeconds(clock, Steady, 0);

        uint bad = (uint)(Steady * decimal.Parse(share, CultureInfo.InvariantCulture));
        Dictionary<string, long> found = [];
        long last = expected.Values.Max() + 3600;
        for (long second = 30; second <= last; second += 30)
        {
            for (int i = 0; i < 3; i++) ledger.TenSeconds(clock, Steady - bad, bad);
            foreach (BurnPair pair in BurnRates.Pairs)
            {
                bool fires = BurnRates.Fires(pair, ledger.Read(0, pair.Long), ledger.Read(0, pair.Short),
                    ledger.Read(0, BudgetWindow.Period), objective, 100);
                if (fires) found.TryAdd(string.Create(CultureInfo.InvariantCulture, $"{pair.Tenths / 10.0}x"), second);
            }
        }
        Assert.Equal(expected.OrderBy(entry => entry.Key), found.OrderBy(entry => entry.Key));
    }

    [Fact]
    public void TheLedgersAlerts_AreThoseOfThePairs_AndEndWithTheBurn()
    {
        SloClock clock = new();
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        for (int i = 0; i < 30 * 8640; i++) ledger.TenSeconds(clock, Steady, 0);
        Assert.Equal(new BudgetState(0, 0, false, false), ledger.ReadState(0));
        for (int i = 0; i < 6; i++) ledger.TenSeconds(clock, 0, Steady);
        BudgetState state = ledger.ReadState(0);
        Assert.True(state.Pages);
        Assert.False(state.Tickets);
        Assert.Equal(6.0 / 30 * 1000, state.Burn5m, 1e-9);
        Assert.Equal(6.0 / 360 * 1000, state.Burn1h, 1e-9);
        for (int i = 0; i < 29; i++) ledger.TenSeconds(clock, Steady, 0);
        Assert.True(ledger.ReadState(0).Pages, "the last bad pair is in the 5 minutes still");
        ledger.TenSeconds(clock, Steady, 0);
        Assert.False(ledger.ReadState(0).Pages);
    }

    [Theory]
    [InlineData(0, 0), InlineData(0, 4), InlineData(0, 97), InlineData(0, 200)]
    [InlineData(60, 4), InlineData(60, 97), InlineData(6000, 200)]
    public void ThreeBadRequestsOfAQuietNight_PageNobody(uint byDay, uint good)
    {
        SloClock clock = new();
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        for (int i = 0; i < 8640; i++) ledger.TenSeconds(clock, byDay, 0);
        for (int i = 0; i < 2160; i++) ledger.TenSeconds(clock, 0, 0);
        ledger.TenSeconds(clock, good, 3);
        for (int i = 0; i < 2160; i++)
        {
            Assert.False(ledger.ReadState(0).Pages);
            ledger.TenSeconds(clock, 0, 0);
        }
    }

    [Theory]
    [InlineData(6000, 20, 0, true)] // an outage, however quiet the night
    [InlineData(6000, 20, 300, false)] // more than 14.4 times the budget, but 0.04 % of what a month may spend
    [InlineData(0, 20, 300, true)] // the same where the night is all there was
    [InlineData(0, 4, 90, false)] // so few could be chance: 0.3 % at 6 times the budget
    [InlineData(0, 6, 58, true)] // and so many hardly: 0.03 %
    public void AQuietNightsErrors_WeighWhatTheyCost(uint byDay, uint bad, uint good, bool pages)
    {
        SloClock clock = new();
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        for (int i = 0; i < 8640; i++) ledger.TenSeconds(clock, byDay, 0);
        for (int i = 0; i < 2160; i++) ledger.TenSeconds(clock, 0, 0);
        ledger.TenSeconds(clock, good, bad);
        Assert.Equal(pages, ledger.ReadState(0).Pages);
    }

    [Theory]
    [InlineData(99, 6, false), InlineData(99, 7, true), InlineData(100, 4, true)]
    public void AWindowOfFewRequests_MustExceedByABinomialBound(int total, int bad, bool fires)
    {
        SloObjective objective = Objectives.Availability();
        BudgetCounts counts = new(total - bad, bad);
        Assert.Equal(fires, BurnRates.Fires(BurnRates.Pairs[0], counts, counts, counts, objective, 100));
        Assert.Equal(7, Enumerable.Range(1, 99).First(least => Exact(least, 99, 0.0144) < 0.001));
    }

    [Theory]
    [InlineData(1, 1, 0.5), InlineData(3, 10, 0.0144), InlineData(7, 99, 0.06), InlineData(50, 99, 0.9)]
    [InlineData(99, 99, 0.001)]
    public void TheTail_IsTheExactSum(int bad, int total, double p) =>
        Assert.Equal(Exact(bad, total, p), BurnRates.Tail(bad, total, p), 1e-12);

    [Fact]
    public void Rates_ScaleWithTheObjectivesWindow_AsSlothsDo()
    {
        SloObjective objective = Objectives.Availability() with { Window = TimeSpan.FromDays(28) };
        Assert.Equal([13.44, 5.6, 2.8, 0.9333], BurnRates.Pairs.Select(pair => Math.Round(pair.Factor(objective), 4)));
        objective = objective with { Window = TimeSpan.FromDays(30) };
        Assert.Equal([14.4, 6, 3, 1], BurnRates.Pairs.Select(pair => pair.Factor(objective)));
    }

    /// <summary>The tail by whole numbers: p is taken to ten decimals.</summary>
    private static double Exact(int bad, int total, double p)
    {
        BigInteger one = 10_000_000_000, yes = (BigInteger)Math.Round(p * 1e10), sum = 0, choose = 1;
        for (int k = 0; k <= total; k++)
        {
            if (k >= bad) sum += choose * BigInteger.Pow(yes, k) * BigInteger.Pow(one - yes, total - k);
            choose = choose * (total - k) / (k + 1);
        }
        return (double)(sum * BigInteger.Pow(10, 20) / BigInteger.Pow(one, total)) / 1e20;
    }
}
